"""Books that watch one promise each, over a whole cluster; simulator and state search keep them."""
