"""From images to memmapped descriptors, and from descriptors to ranked lists."""
