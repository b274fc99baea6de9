"""How figures look: panels, axes, one fixed style for each method."""
