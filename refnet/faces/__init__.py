"""From boxes to faces: landmarks, what they tell, and the same faces through a video."""
