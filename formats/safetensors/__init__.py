"""safetensors: a JSON header and one flat buffer."""
