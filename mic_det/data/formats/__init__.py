"""Labels as others write them, brought to COCO content: formats, and benchmarks' own layouts."""
