"""One script a client: it opens a checkpoint with the client's own library and writes its log-probabilities.

A script knows that library and the standard library alone, and runs in a process, and where needed an environment, of
its own: ``python run_CLIENT.py REQUEST ANSWER``, both JSON files.

The request: ``path`` of the checkpoint; ``prompts``, lists of token ids; ``positions``, the number of last positions of
each prompt that are asked for; ``top``, how many of the likeliest tokens; ``device`` and ``dtype``;
``remote_code``, whether code of the checkpoint's folder may run.
The answer: ``versions``, names with versions; ``answers``, for each prompt and each of these positions a list of pairs
[token id, log-probability of it after all tokens up to that position]. Without answers, it is written before the
checkpoint is opened, too.
"""
