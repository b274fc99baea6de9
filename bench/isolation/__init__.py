"""What a method may leave behind: noticed, undone, and blamed on its cell."""
