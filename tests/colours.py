"""Colours as eyes take them in: shares of light, and the contrast of two."""

import matplotlib as mpl
import numpy as np


def linear(colour):
    """Linear red, green and blue of any colour that matplotlib knows."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    dark, light = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)
