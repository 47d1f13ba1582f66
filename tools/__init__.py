"""What maintainers run; readers of the notebooks need none of it."""
