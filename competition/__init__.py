"""What is being played: configuration, images, labels, splits, metrics, leaderboard, the embedded competition."""
