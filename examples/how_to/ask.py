"""Ask through OpenAI's client, and say what the answer should have been: `python examples/how_to/ask.py`.

DRIFTWHEEL_TOKEN is what `driftwheel token --scope chat --scope feedback --model tickets` prints.
"""

import os

from openai import OpenAI

DOOR = os.environ.get("DRIFTWHEEL_URL", "http://127.0.0.1:8080")


def main() -> None:
    client = OpenAI(base_url=f"{DOOR}/v1", api_key=os.environ["DRIFTWHEEL_TOKEN"])
    asked = client.chat.completions.with_raw_response.create(
        model="tickets", messages=[{"role": "user", "content": "my invoice is wrong"}]
    )
    answer_id, version = asked.headers["x-answer-id"], asked.headers["x-model-version"]
    print(asked.parse().choices[0].message.content, f"(version {version})")

    # A corrected answer is worth most: these are the rows of the next dataset.
    judgement = {"answer_id": answer_id, "correct": False, "corrected": "billing"}
    client.post("/feedback", cast_to=object, body=judgement)


if __name__ == "__main__":
    main()
