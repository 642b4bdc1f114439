"""What runs, and what came of it: configuration, DAG, keys, store, driver, command line."""
