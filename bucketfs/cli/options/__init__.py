"""argv and option lists → `Options` and `StoreConfig`; help and man page from the same table."""
