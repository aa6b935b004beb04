"""LSTM sequence-to-sequence models in JAX: text -> tokens -> batches -> model -> loss -> update -> checkpoint -> hypotheses -> score.

The legend of axes, used in every shape annotation of the package:

    batch   rows of a batch, one sentence pair each (filler rows are all PAD)
    src     positions of a source sentence        tgt     positions of a target sentence
    time    positions of either                   emb     features of an embedding or a layer's input
    hid     features of a hidden state            gates   4 * hid: input, forget, cell, output
    vocab   token ids                             beam    live hypotheses of one sentence
    layer   a stack's layers, lowest first
"""

__version__ = "0.1.0"
