"""SRM, the symbolic replay model: a language model that generates scene graphs, questions and answers of past tasks.

Source: "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023, section 4.1;
training follows LAMOL (Sun et al., ICLR 2020). The package depends on :mod:`mmclvqa.clove` and never imports MMF.
"""
