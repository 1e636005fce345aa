"""A frozen CLIP with adapters: hooks, layouts, encoders, the tuned model, and where its weights come from. No Dassl."""
