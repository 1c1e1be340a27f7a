"""timm models: features, published weights and their registration, loading, cards and folders."""
