"""Throws broken mail at the parser: promises that hold for any bytes, mutations of the corpus, and who runs them."""
