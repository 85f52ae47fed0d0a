"""Does another runtime apply a checkpoint's RoPE scaling? Its log-probabilities are compared with ours."""
