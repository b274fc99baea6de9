"""Units: the smallest things removed as a whole, and masks over them."""
