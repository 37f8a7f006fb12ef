"""What Ollama needs beside a GGUF: a Modelfile, with the chat template in Go's language.

`sandbox` renders a model's Jinja template on probe conversations in a process of its own. `turns` finds out of what
texts it puts conversations together, and checks that on others. `go` writes the same as a template of Go. `modelfile`
puts the file together, `beside` has it written with the GGUF.
"""
