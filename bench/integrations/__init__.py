"""Methods in the training loops of other libraries; each file needs its library, see the extras of the package."""
