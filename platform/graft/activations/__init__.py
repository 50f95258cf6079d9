"""The activation cache: what a frozen trunk gives, computed once and read by all."""
