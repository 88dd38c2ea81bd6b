"""The built wheel and source distribution, as users get them."""
