"""The straight walk of a model request, one file a step: identify, choose, admit, send, meter, settle."""
