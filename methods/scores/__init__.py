"""What scores share: a scratch copy to differentiate, inclusion odds, signal over noise."""
