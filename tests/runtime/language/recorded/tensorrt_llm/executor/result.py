from dataclasses import dataclass


@dataclass
class CompletionOutput:
    text: str = ""

    @property
    def text_diff(self):
        return self.text
