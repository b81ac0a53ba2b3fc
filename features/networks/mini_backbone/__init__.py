"""The embedded network of the mini competition: importing `features.networks.mini_backbone.model` makes timm know it."""
