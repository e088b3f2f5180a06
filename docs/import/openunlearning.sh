#!/bin/bash
export MASTER_PORT=$(python -c "import socket; s=socket.socket(); s.bind(('', 0)); print(s.getsockname()[1]); s.close()")

models=(
    "Llama-3.2-1B-Instruct"
    # "Llama-3.2-3B-Instruct"
)
trainers=("SatImp" "NPO" "CEU")
splits=(
    "forget10 retain90"
    "forget05 retain95"
)
lrs=(1e-5 2e-5)

per_device_train_batch_size=4 # on two GPUs an effective batch size of 32
gradient_accumulation_steps=4

for split in "${splits[@]}"; do
    forget_split=$(echo $split | cut -d' ' -f1)
    retain_split=$(echo $split | cut -d' ' -f2)
    for model in "${models[@]}"; do
        for trainer in "${trainers[@]}"; do
            for lr in "${lrs[@]}"; do
                task_name=tofu_${model}_${forget_split}_${trainer}_${lr}
                model_path=open-unlearning/tofu_${model}_full

                CUDA_VISIBLE_DEVICES=0 accelerate launch --main_process_port $MASTER_PORT \
                src/train.py --config-name=unlearn.yaml \
                experiment=unlearn/tofu/default.yaml \
                trainer=${trainer} \
                task_name=${task_name} \
                model=${model} \
                forget_split=${forget_split} \
                retain_split=${retain_split} \
                model.model_args.pretrained_model_name_or_path=${model_path} \
                retain_logs_path=saves/eval/tofu_${model}_${retain_split}/TOFU_EVAL.json \
                trainer.args.per_device_train_batch_size=$per_device_train_batch_size \
                trainer.args.gradient_accumulation_steps=$gradient_accumulation_steps \
                trainer.args.gradient_checkpointing=true \
                trainer.args.learning_rate=$lr \
                trainer.method_args.alpha=0.1,1.0

                CUDA_VISIBLE_DEVICES=0 python src/eval.py \
                experiment=eval/tofu/default.yaml \
                forget_split=${forget_split} \
                model=${model} \
                task_name=${task_name} \
                paths.output_dir=saves/unlearn/${task_name}/evals
            done
        done
    done
done
