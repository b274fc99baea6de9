"""The page that answers when asked: records and their statistics inside the file, and the scripts that read them."""
