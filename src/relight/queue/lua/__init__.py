"""Scripts that Redis runs, each as one step; `prelude` comes before every other."""
