"""SRM, the symbolic replay model: a language model that writes scene graphs, questions and answers of past tasks.

Source: "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023, section 4.1;
its training follows LAMOL (Sun et al., ICLR 2020). It stands on :mod:`mmclvqa.clove` alone, never on MMF.
"""
