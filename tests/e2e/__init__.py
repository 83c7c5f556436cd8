"""The commands of the README and the docs, and what is shipped, as people get them."""
