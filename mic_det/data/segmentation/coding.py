"""What the values or colours of label images mean."""

#: Id of pixels without a class, in everything that a model sees.
IGNORE = 255
