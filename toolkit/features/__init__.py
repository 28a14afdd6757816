"""Images through a network into a Zarr store, all layers in one forward pass.

``layout`` is arithmetic only and imports neither torch nor zarr; ``store`` imports zarr;
``extract`` imports both.
"""
