"""What is played: configuration, images, labels, splits, metrics, leaderboard, the embedded competition."""
