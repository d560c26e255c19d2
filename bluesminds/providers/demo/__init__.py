"""A built-in model server, so that every endpoint of the gateway can be tried without a vendor.

It supports OpenAI's API for chat completions, responses, completions, embeddings, moderations, images, audio
and Realtime sessions, and the rerank API of Cohere and Jina. The same request always gets the same response.
The model decides what the response is:

    demo/echo        the last message              demo/embedding    vectors, alike for similar texts
    demo/text        48 words of prose             demo/moderation   flags a few plain words
    demo/reasoning   prose after reasoning         demo/rerank       sorts documents by relevance
    demo/refusal     a refusal                     demo/image        striped images (PNG)
    demo/speech      a tone for each word (WAV)    demo/transcription  the size of a recording
    demo/realtime    sessions that repeat the last message

These models serve every endpoint:

    demo/slow        waits 3 s before the first byte
    demo/cut         closes the connection in the middle of the response
    demo/NNN         responds with HTTP status NNN (400 to 599), for example demo/429 with Retry-After

Tools are called and JSON is written according to their JSON Schema. `respond` is pure: it turns a request
into a Script. The ASGI application of `demo_app` plays the script. It also keeps files, batches and
responses, in memory.
"""

from bluesminds.providers.demo.server import MODELS, SLOW_SECONDS, CutOff, demo_app, respond

__all__ = ["MODELS", "SLOW_SECONDS", "CutOff", "demo_app", "respond"]
