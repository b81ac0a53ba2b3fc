"""From descriptors to ranked lists: measures, expansion, re-ranking and the steps a recipe names."""
