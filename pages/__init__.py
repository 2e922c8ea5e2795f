"""One script a page: widgets, one call into phenokit, draw."""
