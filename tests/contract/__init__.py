"""The promises that every output keeps, run against each of them."""
