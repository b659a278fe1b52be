"""The MMF data set ``clvqa``: CLOVE records with their region features, texts and answers."""
