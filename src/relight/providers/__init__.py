"""LLM providers: one typed form of requests and answers, and a router that outlives any one provider."""
