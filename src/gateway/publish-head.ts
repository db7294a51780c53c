import type { ViolationReason } from './frames.ts';
import { OF_PUBLISH, readProperties, UNEXPECTED } from './mqtt5/properties.ts';

/** Room for the topic, message id and properties before a payload, bytes. */
export const HEAD_BYTES_MAX = 4_096;

/** Where a PUBLISH has its parts [MQTT-3.3]: read once for each packet into the same object. */
export class PublishHead {
  qos: 0 | 1 | 2 = 0;
  retain = false;
  /** 0 for QoS 0. */
  messageId = 0;
  topicStart = 0;
  topicEnd = 0;
  /** Topic alias; 0: none. */
  alias = 0;
  payloadStart = 0;
  /** Of MQTT 5 properties, without the byte that says that there are none. */
  propertiesBytes = 0;

  /**
   * Returns what the packet at `start` breaks; undefined: it is sound. `body`: where its variable header starts;
   * `end`: of what is there of it, at least its head.
   */
  read(
    bytes: Buffer,
    start: number,
    body: number,
    end: number,
    isMqtt5: boolean,
  ): ViolationReason | undefined {
    const flags = (bytes[start] as number) & 0x0f;
    const qos = ((flags >> 1) & 3) as 0 | 1 | 2 | 3;
    // [MQTT-3.3.1-4]
    if (qos === 3 || end - body < 2) return 'PACKET_MALFORMED';
    this.qos = qos;
    this.retain = (flags & 1) === 1;
    this.topicStart = body + 2;
    this.topicEnd = this.topicStart + bytes.readUInt16BE(body);
    const headEnd = qos === 0 ? this.topicEnd : this.topicEnd + 2;
    if (headEnd > end) return 'PACKET_MALFORMED';
    this.messageId = qos === 0 ? 0 : bytes.readUInt16BE(this.topicEnd);
    // [MQTT-2.3.1-1]
    if (qos !== 0 && this.messageId === 0) return 'PACKET_MALFORMED';
    this.alias = 0;
    this.payloadStart = headEnd;
    this.propertiesBytes = 0;
    return isMqtt5 ? this.readProperties(bytes, headEnd, end) : undefined;
  }

  private readProperties(bytes: Buffer, at: number, end: number): ViolationReason | undefined {
    const properties = readProperties(bytes, at, end, OF_PUBLISH);
    if (properties.end < 0) {
      return properties.end === UNEXPECTED ? 'PACKET_UNEXPECTED' : 'PACKET_MALFORMED';
    }
    this.payloadStart = properties.end;
    this.propertiesBytes = properties.end - at - 1;
    this.alias = properties.alias;
    if (properties.end - at > HEAD_BYTES_MAX) return 'PACKET_TOO_LARGE';
    // [MQTT5-3.3.2.1] a topic or an alias
    return this.alias === 0 && this.topicEnd === this.topicStart ? 'PACKET_UNEXPECTED' : undefined;
  }
}
