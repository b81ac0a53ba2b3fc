"""The embedded network of the mini competition: importing `features.mini_backbone.model` makes timm know it."""
