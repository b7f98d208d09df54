"""The small language that pocket-gpt speaks, made by rule: from words to sentences, to documents, to a curriculum.

Begin with sentences.py; miniatures.py are the six tasks in this language, questions.py harder ones.
"""
