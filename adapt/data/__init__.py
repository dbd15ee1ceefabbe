"""Raw folders to packed shards and back: label spaces, layouts, codecs, packing, manifest."""
