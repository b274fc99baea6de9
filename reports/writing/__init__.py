"""Tables, numbers and sentences as text."""
