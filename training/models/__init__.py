"""Models as the policy needs them: opened, taken apart, adapted, published; prompts as their templates write them."""
