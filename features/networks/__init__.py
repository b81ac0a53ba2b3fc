"""The networks that descriptors come from, their weights, and the digests these are known by."""
