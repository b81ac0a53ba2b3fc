"""The papers' experiments: *.toml says what is run, the modules beside it run it and compare with what was published."""
