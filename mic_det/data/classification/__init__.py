"""Data of classification: folders of images by class, the data sets known by name, drawn digits."""
