"""Image files to pixels: opening, decoding, sizing, and photos simulated of them."""
