"""What transformers makes of a picture or a spectrogram, for the models of tests/tiny_projectors.py."""

import numpy as np
import torch

#: Size of the picture (height, width) for each model.
SIZES = {
    "gemma3": (112, 112),
    "qwen2vl": (56, 84),
    "qwen2.5vl": (168, 140),
    "qwen3vl": (64, 96),
    "qwen3.5": (64, 96),
    "exaone4.5": (168, 140),
    "glm4v": (56, 84),
    "glm-ocr": (56, 84),
    "smolvlm": (56, 56),
    "idefics3": (56, 56),
    "lfm2vl": (64, 96),
    "cohere2vision": (56, 56),
    "janus": (56, 56),
    "paddleocr": (56, 84),
    "minicpmv4.6": (56, 56),
    "pixtral": (56, 84),
    "mistral3": (56, 84),
    "lightonocr": (56, 84),
    "llama4": (56, 56),
    "internvl": (56, 56),
    "gemma4": (84, 126),
    "gemma4-hearing": (84, 126),
}
#: Size of the spectrogram (bins, frames) of models that hear.
SPECTRA = {"qwen2audio": (16, 80), "audioflamingo3": (16, 80), "gemma4-hearing": (128, 80)}
PACKED = {"qwen2vl", "qwen2.5vl", "qwen3vl", "qwen3.5", "exaone4.5", "glm4v", "glm-ocr"}
RAGGED = {"pixtral", "mistral3", "lightonocr"}


def picture(name):
    """Pixels as a preprocessor leaves them, [height, width, 3]."""
    return np.random.default_rng(7).uniform(-1, 1, (*SIZES[name], 3)).astype(np.float32)


def spectrogram(shape):
    """Loudness as a preprocessor leaves it, [bins, frames]."""
    return np.random.default_rng(8).uniform(-1, 1, shape).astype(np.float32)


def heard(name, model, values):
    """[tokens, width of the text model] of a spectrogram."""
    sounds = torch.from_numpy(values)[None]
    with torch.inference_mode():
        found = _heard(name, getattr(model, "model", model), sounds)
    return found.reshape(-1, found.shape[-1]).numpy()


def _heard(name, inner, sounds):
    frames = torch.ones(sounds.shape[::2], dtype=torch.long)
    if name == "gemma4-hearing":
        found = inner.get_audio_features(sounds.transpose(1, 2), frames.bool())
        return found.pooler_output
    more = {"input_features_mask": frames} if name == "audioflamingo3" else {}
    return inner.multi_modal_projector(inner.audio_tower(sounds, **more).last_hidden_state)


def packed(pixels, patch, merge=2, frames=2):
    """Patches as Qwen's processors have them: four that are merged follow each other, frames inside."""
    high, wide = (edge // patch for edge in pixels.shape[-2:])
    video = pixels[None].expand(frames, -1, -1, -1)
    grid = video.reshape(1, frames, 3, high // merge, merge, patch, wide // merge, merge, patch)
    flat = grid.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(high * wide, -1)
    return flat, torch.tensor([[1, high, wide]])


def features(name, model, values):
    """[tokens, width of the text model], as transformers hands them to the text model."""
    pixels = torch.from_numpy(values.transpose(2, 0, 1).copy())
    with torch.inference_mode():
        found = _features(name, model, pixels)
    deep = getattr(found, "deepstack_features", None) or []  # which llama.cpp puts beside
    more = [one if isinstance(one, torch.Tensor) else torch.cat(list(one)) for one in deep]
    found = getattr(found, "pooler_output", found)
    if isinstance(found, list | tuple):
        found = torch.cat([one.reshape(-1, one.shape[-1]) for one in found])
    return torch.cat([found.reshape(-1, found.shape[-1]), *more], dim=1).numpy()


def _features(name, model, pixels):
    height, width = pixels.shape[-2:]
    if name in PACKED:
        patches, grid = packed(pixels, model.config.vision_config.patch_size)
        return model.get_image_features(pixel_values=patches, image_grid_thw=grid)
    if name == "paddleocr":
        grid = torch.tensor([[1, height // 14, width // 14]])
        patches = pixels.reshape(3, height // 14, 14, width // 14, 14).permute(1, 3, 0, 2, 4).reshape(-1, 3, 14, 14)
        return model.get_image_features(pixel_values=patches, image_grid_thw=grid)
    if name in RAGGED:
        return model.get_image_features(pixel_values=pixels[None], image_sizes=torch.tensor([[height, width]]))
    if name in ("smolvlm", "idefics3"):
        return model.get_image_features(pixel_values=pixels[None, None])
    if name == "lfm2vl":
        high, wide = height // 16, width // 16
        patches = pixels.reshape(3, high, 16, wide, 16).permute(1, 3, 2, 4, 0).reshape(1, high * wide, -1)
        return model.get_image_features(
            pixel_values=patches,
            spatial_shapes=torch.tensor([[high, wide]]),
            pixel_attention_mask=torch.ones(1, high * wide, dtype=torch.long),
        )
    if name == "minicpmv4.6":
        size = torch.tensor([[height // 14, width // 14]])
        patches = pixels.reshape(3, height // 14, 14, width // 14, 14).permute(0, 2, 1, 3, 4).reshape(1, 3, 14, -1)
        return model.get_image_features(pixel_values=patches, target_sizes=size)
    if name in ("gemma4", "gemma4-hearing"):
        high, wide = height // 14, width // 14
        patches = pixels.reshape(3, high, 14, wide, 14).permute(1, 3, 2, 4, 0).reshape(1, high * wide, -1)
        places = torch.stack(torch.meshgrid(torch.arange(wide), torch.arange(high), indexing="xy"), dim=-1)
        return model.get_image_features(pixel_values=patches, image_position_ids=places.reshape(1, -1, 2))
    if name == "llama4":
        return model.multi_modal_projector(model.vision_model(pixels[None]).last_hidden_state)
    return getattr(model, "model", model).get_image_features(pixel_values=pixels[None])
