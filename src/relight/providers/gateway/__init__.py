"""An HTTP face of the router on loopback, in the formats that agents already speak: OpenAI's and Anthropic's."""
