"""Raw files in, tensors out.

Data sets: ``sources`` (one module each), ``registry`` (all of them by name), ``files`` (what is
missing or damaged, and what to do), ``compat`` (what torchvision knows of them).

Images: ``images`` (raw), ``archives``, ``class_folders`` and ``image_folder`` (those of users),
``preprocessing`` and ``whitening`` (inputs of networks), ``split`` (validation samples).

Molecules: ``multitask`` (with labels), ``sdf`` (structures), ``smiles``, ``recombine`` and
``corpus`` (what the autoencoder learns from), ``codes`` (what networks see).

``datasets`` reads what the configuration asks for; ``cache`` keeps what takes long to make.
"""
