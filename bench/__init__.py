"""The harness: matrix, cells, training loop, selection, evaluation, store, command line."""

from ..datasets.former_names import find_former_modules

find_former_modules()
